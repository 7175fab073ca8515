mod bounds;
mod fixture;
mod genesis;
mod model;
mod once;
