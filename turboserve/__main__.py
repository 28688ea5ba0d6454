"""`python -m turboserve` is the command `turboserve`."""

from turboserve.cli import main

if __name__ == "__main__":
    main()
