"""What training costs on a machine: measured, counted, and beside a peer."""
