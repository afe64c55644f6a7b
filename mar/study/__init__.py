"""What a study may say, what each result depends on, which results it asks for, and where they lie. No torch.

parts: data, tokenizer, backbone, head, recipe, sampling. sections: metrics, speed, tables, curves. study: a whole study
and its variants. compatibility: which parts fit together. reading: reads a study from YAML. mistakes: what is wrong
with one, with file and line. shorthand: abbreviations that a study file may use. lengths: epochs in images.
json_schema: the schema for editors. canonical: one text for equal questions. stage_keys: what the result of each stage
depends on, as text. products: which results a study asks for. records: what each stage writes for the stages after it.
layout: every path. commands: the command of every stage. chosen_settings: the guidance scales and temperatures that
sweeps chose. sizes: of the state of a training. at_once: how many images go through a network at once. limits: numbers
that no study sets. alone: the sections that one variant needs.

May import: runtime.
"""
