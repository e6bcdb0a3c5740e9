"""A chat with memory, whose answers are read as they are made, and a page for it."""
