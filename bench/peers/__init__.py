"""The peers: how they are installed, and the same services written with their SDKs."""
