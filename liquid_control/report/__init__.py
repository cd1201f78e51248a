"""What is told of a driver or model: scores and their statistics, cards, pictures, films, pages."""
