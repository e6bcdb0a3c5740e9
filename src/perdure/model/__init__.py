"""L0: the nouns. Frozen values, no behaviour, no IO."""
