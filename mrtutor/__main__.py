"""`python -m mrtutor`."""

from mrtutor.cli import main

if __name__ == "__main__":
    main()
