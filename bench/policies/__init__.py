"""Every policy on every trace of the yardstick, with the tables and plots of docs/results: `make bench-
policies`.
"""
