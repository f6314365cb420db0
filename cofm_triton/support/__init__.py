"""What every room uses: numbers from arguments, files, progress. It imports nothing else of the package."""
