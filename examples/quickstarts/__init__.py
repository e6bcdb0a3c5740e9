"""One file for each agent framework: an agent with a tool, made durable with one line."""
