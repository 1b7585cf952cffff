"""Networks: load and save model folders, sample, prune, narrow, adapt."""
