"""From questions to generations to labels: data sets, prompts, labelling, import, run folder."""
