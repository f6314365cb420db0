"""What every part of the package uses: checks of arguments, files, progress. It imports nothing else of the package."""
