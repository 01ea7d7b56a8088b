"""What must be right on a node: facts read once, checks over them, findings with what to do. Nothing is changed.

`reader` reads facts from handed-in roots, each topic in a process of its own with a deadline, so that a firmware that
hangs costs seconds. The checks (hca, fabric, vfs, state, config, node) are functions of the facts alone. `catalogue`
lists them; `examine` puts both together.
"""
