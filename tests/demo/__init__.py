"""`make demo`: a BertDeployment applied to a real cluster, followed, asked and compared with its source model."""
