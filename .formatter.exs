[
  inputs: [
    "{mix,.formatter}.exs",
    "{config,lib,test,bench,offline}/**/*.{ex,exs}",
    "examples/*/mix.exs",
    "examples/*/{lib,test}/**/*.{ex,exs}"
  ]
]
