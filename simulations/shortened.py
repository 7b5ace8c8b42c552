"""Zero-shot transfer cut short, for experiments that make many models: minutes and not days. They say so beside it."""

GROUPS, BATCH = 50, 64
SHORTENED = {"unlearning.generator_groups": GROUPS, "unlearning.generator_batch_size": BATCH}
PUBLISHED = "unlearning.generator_groups and .generator_batch_size; published: 4000 of 256"
