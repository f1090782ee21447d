//! Helps to choose the threshold of `LastGoodLayer::similar`. For pairs of questions it prints how many equivalent
//! ones each threshold finds, and how many different ones it confuses: with the embedder alone, and with the guards.
//!
//! ```sh
//! # With the pairs below, and a measure of form:
//! cargo run --example similarity --features llm
//! # With your own pairs (`same` or `other`, a tab, a question, a tab, a question, on each line) and your own embedder, whose
//! # key is in EMBEDDINGS_KEY:
//! cargo run --example similarity --features llm -- pairs.tsv http://127.0.0.1:11434/v1/embeddings nomic-embed-text
//! ```

use std::collections::HashMap;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::Layer;
use tower_buttress::error::BoxError;
use tower_buttress::{CallBody, Embedder, Embedding, OpenAiEmbeddings, Similar, TimeoutProfile, presets};

const PAIRS: &str = "\
same\tWhat is the capital of France?\tCould you tell me the capital of France?
same\tWhat is the capital of France?\tTell me the capital city of France
same\tHow do I reset a forgotten password?\thow do I recover a password that was forgotten
same\tExplain photosynthesis in simple words\tExplain in simple words how photosynthesis works
same\tHow do I boil an egg?\tWhat is the best way to boil an egg?
same\tWhy is the sky blue?\tWhy does the sky look blue?
same\tSummarize the plot of Hamlet\tGive me a summary of the plot of Hamlet
other\tWhat is the capital of France?\tWhat is the capital of Spain?
other\tHow do I enable the firewall?\tHow do I disable the firewall?
other\tIs it 10 miles to Paris?\tIs it 100 miles to Paris?
other\tThe flight from Paris to London\tThe flight from London to Paris
other\tWhat does EU law say about this?\tWhat does US law say about this?
other\tIs it safe to eat raw eggs?\tIs it not safe to eat raw eggs?
other\tWhat is a mammal?\tWhat is a mammoth?
other\tWhat did Elizabeth I do?\tWhat did Elizabeth II do?
other\tIs 5 m long for a snake?\tIs 5 mm long for a snake?
";

/// Compares the letters of two texts, not their meaning.
struct Trigrams;

impl Embedder for Trigrams {
    fn id(&self) -> &str {
        "trigrams"
    }

    fn embed(&self, texts: Vec<String>) -> Embedding {
        const BUCKETS: usize = 4_096;
        let vector = |text: &String| {
            let letters: Vec<char> = format!("  {}  ", text.to_lowercase()).chars().collect();
            let mut counts = vec![0.0; BUCKETS];
            for trigram in letters.windows(3) {
                let hash = trigram.iter().fold(7_usize, |hash, c| hash.wrapping_mul(31).wrapping_add(*c as usize));
                counts[hash % BUCKETS] += 1.0;
            }
            counts
        };
        let vectors = texts.iter().map(vector).collect();
        Box::pin(async { Ok(vectors) })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = match arguments.first() {
        Some(path) => std::fs::read_to_string(path)?,
        None => PAIRS.to_owned(),
    };
    let embedder: Box<dyn Embedder> = match &arguments[..] {
        [_, url, model, ..] => {
            let client = Client::builder(TokioExecutor::new()).build_http::<CallBody>();
            let service = presets::http_client(TimeoutProfile::STANDARD).layer(client);
            let embedder = OpenAiEmbeddings::new(service, url.parse()?, model.as_str());
            match std::env::var("EMBEDDINGS_KEY") {
                Ok(key) => Box::new(embedder.header(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}"))?)),
                Err(_) => Box::new(embedder),
            }
        }
        _ => Box::new(Trigrams),
    };

    let mut pairs = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let &[kind @ ("same" | "other"), one, other] = &fields[..] else {
            return Err(format!("no pair: {line}").into());
        };
        pairs.push((kind == "same", one, other));
    }
    let questions: Vec<String> =
        pairs.iter().flat_map(|(_, one, other)| [one.to_string(), other.to_string()]).collect();
    let vectors = embedder.embed(questions.clone()).await?;
    let meaning: HashMap<String, Vec<f32>> = questions.into_iter().zip(vectors).collect();

    println!(
        "{} of {} pairs mean the same. Measured by {}.\n",
        pairs.iter().filter(|pair| pair.0).count(),
        pairs.len(),
        embedder.id()
    );
    println!("threshold   right hits   wrong hits   behind the guards: right   wrong");
    for threshold in [0.70, 0.80, 0.85, 0.90, 0.95, 0.97, 0.99] {
        let hits = |same: bool, guarded: bool| {
            let is_hit = |one: &str, other: &str| {
                let cosine = Similar::cosine(&meaning[one], &meaning[other]).unwrap_or(0.0);
                cosine >= threshold && (!guarded || Similar::agree(one, other))
            };
            pairs.iter().filter(|(is_same, one, other)| *is_same == same && is_hit(one, other)).count()
        };
        println!(
            "{threshold:>9.2}   {:>10}   {:>10}   {:>24}   {:>5}",
            hits(true, false),
            hits(false, false),
            hits(true, true),
            hits(false, true),
        );
    }
    Ok(())
}
