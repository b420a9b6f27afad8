"""What runs inside build Jobs and beside servers: `python -m bert_build <step>`."""
