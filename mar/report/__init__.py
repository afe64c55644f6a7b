"""Tables, figures and the page.

page, page_sections: report.html. evidence: from a number to its files. terminal: `mar summary`. tables/, figures/:
what a paper could take.

May import: runtime, study, data, paper, analysis.
"""
