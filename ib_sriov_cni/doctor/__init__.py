"""What must be right on a node: facts are read with a deadline, then pure checks look at them. docs/doctor.md.

May import attach and everything below it, not node: what it asks may hang, so it reads by itself. Changes nothing.
"""
