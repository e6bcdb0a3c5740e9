"""Two hundred steps, through three deaths of the server."""
