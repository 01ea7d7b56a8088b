"""host-local address management: a drop-in for the Go plugin of that name, in process or as an executable."""
