"""SQL over what is stored: the tables of restate-server, queried with DataFusion in a process of its own."""
