"""What perdure knows of the world of AI: here, the protocols that chat pages speak."""
