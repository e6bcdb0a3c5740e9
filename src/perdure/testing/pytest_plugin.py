"""The pytest fixture `perdure_engine`."""
