"""Other programs that draw with the same weights, as `genin bench --peers` measures them: one row of `table.PEERS` each."""
