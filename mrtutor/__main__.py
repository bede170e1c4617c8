"""`python -m mrtutor`."""

from mrtutor.cli import app

if __name__ == "__main__":
    app()
