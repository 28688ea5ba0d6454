"""A trace played on a live system by simulated viewers, measured as the simulator measures, and the two side
by side.
"""
