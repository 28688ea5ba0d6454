"""Workers in pods, one for each node of the cluster; needs the extra `kubernetes`."""
