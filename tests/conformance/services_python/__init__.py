"""The contract's services, written with the official Python SDK. They run in the SDK's own environment."""
