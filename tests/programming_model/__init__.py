"""The whole programming model: each scenario is written once and run five ways, and comes to the same each time."""
