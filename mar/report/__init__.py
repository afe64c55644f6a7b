"""Tables, figures and the page.

page, page_sections: report.html. evidence: from a number to its files. terminal: `mar summary`. tables/, figures/:
files that can be taken into a paper.

May import: runtime, study, data, paper, analysis.
"""
