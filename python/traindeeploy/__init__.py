"""TrainDeeploy: on-device fine-tuning for PULP clusters with RedMulE."""
