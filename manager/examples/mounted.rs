//! An engine that mounts the routes of the manager beside its own.
//!
//! ```text
//! cargo run -p ekuiper-manager --features rest --example mounted -- plugins 127.0.0.1:9081
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use ekuiper_manager::{Manager, rest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let plugins = arguments.next().ok_or("which folder has the plugins?")?;
    let address = arguments.next().ok_or("which address is listened at?")?.parse()?;
    serve(Path::new(&plugins), address).await
}

/// Serves the engine's routes and the manager's.
async fn serve(plugins: &Path, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let manager = Arc::new(Manager::builder(plugins).open()?);
    let own = Router::new().route("/rules", get(async || "[]"));
    let mut routes = own.merge(rest::router(manager.clone()));
    if address.ip().is_loopback() {
        routes = rest::of_this_machine(routes);
    } else {
        let token = rest::Token::new(&std::env::var("TOKEN")?)?;
        routes = rest::with_token(routes, token);
    }
    // The engine uses the same plugins: `manager.host().function("revert")`.
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, routes).await?;
    Ok(())
}
