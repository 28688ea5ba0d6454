"""Policies of placement: who goes where, as functions of what is seen. Used by the live service and the
simulator.
"""
