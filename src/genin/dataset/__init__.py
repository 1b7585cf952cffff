"""Dataset folders as everything reads them: files, splits, shards."""
