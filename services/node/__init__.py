"""One pod's or machine's workers: a process for each GPU, all of which see all of them."""
