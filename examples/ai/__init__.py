"""One small agent per framework, each durable by one line."""
