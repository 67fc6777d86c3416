"""What clients and server do in a PFDM run, without Flower: messages, tasks, the server's spool, training."""
