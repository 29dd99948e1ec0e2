"""Which complaint a call is about, and how sure that is: judged, calibrated and decided upon.

`answers` are what a classifier said about calls whose class is known; `evaluate` says how good they are and whether
another classifier is better, `calibrate` makes their probabilities mean what they say, `conformal` makes sets of
classes that hold the truth as often as promised, `decide` what is filed by itself and what a person looks at.
`baseline` trains the classifier of words that every model must beat, `linear` is what that classifier is, `mislabelled`
finds labels to look at again. `prediction` is the line that all of it ends in. `labelled` reads calls with labels, part
by part; `baseline_folder` keeps the baselines, `part_logits` what a trained model said, `meaning` what that means;
`trial` holds model and baselines against one another, and `trying` does all of it over files.
"""
