"""The contract's services (README.md, one directory up), written with perdure's own SDK."""
