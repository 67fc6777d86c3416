"""What clients and server do in a PFDM run, without Flower: messages, client tasks, the server's spool, training."""
