"""What our serving images load into the servers; each folder is one handler. Nothing here is imported by bert_build."""
