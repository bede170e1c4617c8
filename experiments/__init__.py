"""What regenerates this repository's own results. A reader of the course calls nothing here."""
