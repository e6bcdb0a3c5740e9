"""A research agent that is killed again and again and finishes its work. Read `agent.py` first."""
