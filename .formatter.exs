[
  inputs: ["{mix,.formatter}.exs", "{config,lib,test,bench,offline}/**/*.{ex,exs}"]
]
