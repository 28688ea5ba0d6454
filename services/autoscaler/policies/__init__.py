"""Policies of the fleet's size, as functions of what is seen. Used by the live service and the simulator."""
