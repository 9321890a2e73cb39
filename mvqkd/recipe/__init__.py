"""What a recipe is: its configuration, the folders of its runs, and its stages.

Everything below this package is a library that knows no recipe: no option, no program, no stage.
"""
