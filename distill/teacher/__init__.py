"""Train a teacher from nothing, or tune a pretrained one."""
