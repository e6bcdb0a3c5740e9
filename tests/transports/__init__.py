"""Ways to handlers elsewhere, over real sockets where there are any."""
