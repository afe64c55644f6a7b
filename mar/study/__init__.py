"""What a study may say, what each result depends on, which results it asks for, and where they lie. No torch.

parts: data, tokenizer, backbone, head, recipe, sampling. sections: metrics, speed, tables, curves. study: the whole,
and its variants. compatibility: what parts accept of each other. reading: from YAML. shorthand: what a file may say in
short. json_schema: for editors. stage_keys: what a result depends on, as text. products: which results there are.
layout: each path. commands: each command.
chosen_settings: what sweeps chose. limits: numbers of images that no study sets.

May import: runtime.
"""
