"""What a reader opens in a browser: the studio, the attention browser, the reader study."""
