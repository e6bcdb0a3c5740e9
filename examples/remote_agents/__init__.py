"""Agents as services that call each other, in two processes."""
